"""Models measured on labelled images, by the code that `rtseg run` uses."""
