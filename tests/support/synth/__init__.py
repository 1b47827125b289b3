"""Writers of formats that only tests need; `symcache.synth` has those of the demo."""
