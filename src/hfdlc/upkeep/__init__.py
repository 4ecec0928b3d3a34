"""What this machine holds and lacks."""
