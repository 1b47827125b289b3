"""PE images: headers, debug directories, code view records, ``.dbg`` files."""
