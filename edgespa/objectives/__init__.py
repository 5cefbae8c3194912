"""What is learned and how well: targets, losses, measures."""
