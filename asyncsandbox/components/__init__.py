"""The components, one file each. None imports another; `asyncsandbox.sandbox` wires them."""
