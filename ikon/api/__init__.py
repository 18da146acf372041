"""HTTP: what comes in and goes out on the wire, and nothing about why. One file per noun, a table of routes beside them."""
