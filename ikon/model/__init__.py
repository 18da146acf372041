"""What images are and the pure rules about them. No I/O, no SQL, no HTTP."""
