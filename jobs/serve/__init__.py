"""What answers while it is asked: needs ml and the store."""
