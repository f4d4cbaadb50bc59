"""`rtseg batch`: many clips, through networks that are loaded once, on one machine or several."""
