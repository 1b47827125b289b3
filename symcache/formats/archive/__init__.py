"""Archives to members: zip, tar, cabinets and single compressed files. Nothing is written, no name becomes a path."""
