"""Physical memory without a crash dump's header: raw images and what tools and hypervisors write of it."""
