"""What symstore keeps beside the files: transactions, references, 000Admin."""
