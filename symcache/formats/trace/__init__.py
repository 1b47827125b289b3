"""Traces: event logs of Windows (ETL) and of .NET's EventPipe (nettrace), as far as they tell what was loaded."""
