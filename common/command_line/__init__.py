"""The only home of argparse: the frame of the scripts, their flags and their requests."""
