"""Data sets in other people's layouts, each read as the entries of a COCO json; see `recognise`."""
