"""The daemon: parts built from the configuration, supervised, fed by the engine, asked through a socket.

The way of the data is ``consume`` (engine → store → ``publish``) and ``respond`` (store → enforcers). ``daemon`` starts
and stops it all, ``control`` and ``commands`` answer for it, and ``client`` is the other end of that line.

Nothing is imported here: quick commands need ``client`` and nothing else.
"""
