"""The desktop chat: conversations in SQLite, replies that outlive the page, and the page itself.

store (conversations, message tree, search) <- replies (a generation that writes to the store and
is watched by any number of pages) <- routes (/api/chat/...) <- window. The engine is behind
turbosparse.server.engine; nothing here loads a library.
"""
