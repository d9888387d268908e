"""What of a photo is the garment, and what the ground it lies or hangs on."""
