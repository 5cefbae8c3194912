"""From an image file to pixels, and from pixels to what a network takes; without torch."""
