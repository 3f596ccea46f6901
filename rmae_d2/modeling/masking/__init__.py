"""Masking policies, which choose the patches to hide, behind one protocol."""
