"""Sources: what a share is made of (a folder, later a database), behind one interface."""
