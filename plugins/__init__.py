"""The plugins that ship with sparkd."""
