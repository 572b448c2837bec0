"""The way of an action from bytes to files: submission → journal → hot rows → flush → lake.

`storage.store.Store` is the front door; the other modules are named by the noun they own.
Imports run one way, `service → queries → storage`, and this package imports nothing from the other two.
"""
