"""What the tests share: a server process, official clients pointed at it, models of what is right.

Nothing here is a test. Nothing here knows how the server works inside.
"""
