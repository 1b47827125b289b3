"""The records that symstore keeps beside the files: transactions in 000Admin, and references to them."""
