"""Where symbol files come from and go to: stores on disk, folders, servers, and the chains that join them."""
