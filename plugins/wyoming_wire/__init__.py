"""The Wyoming protocol for the plugins that speak it: frames with bounds, and a server that survives any client.

Not a plugin of its own: it offers no service and stands in no entry point.
"""
