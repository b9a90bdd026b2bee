"""How brokers are found.

names   dns://HOST:PORT: every address that a name has
"""
