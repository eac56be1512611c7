"""What may be set: by variables, by the file of targets, and by the arguments of one sweep."""
