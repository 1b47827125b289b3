"""Disks and images of disks: containers, partition tables, file systems, archives of files; bytes to files."""
