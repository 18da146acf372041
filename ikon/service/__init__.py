"""The verbs: what can be done, each told as a story from who asks to what is then true."""
