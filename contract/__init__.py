"""What both sides of a call agree on, below everything else.

It imports nothing of ours but generated messages, and this file imports nothing at all.
"""
