"""PDBs of every format: native, of version 2, portable; their containers MSF and MSFZ."""
