"""What the components stand on. Nothing here is public; nothing here knows a component."""
