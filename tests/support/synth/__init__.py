"""Writers of real formats, which share no code with `symcache`: a mistake about a format must not hide in both."""
