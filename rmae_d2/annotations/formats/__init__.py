"""Data sets in other formats, each read as the entries of a COCO json; see `recognise`."""
