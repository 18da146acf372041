"""What is inside the bytes of an image: sees a stream, answers format, virtual size and dangers.

One file per family of formats, each a pure function of what was kept of a stream. All look at every stream, whatever it is said to be.
"""
