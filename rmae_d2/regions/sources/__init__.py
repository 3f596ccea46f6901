"""Where regions come from: computed, annotated, predicted, stored, or a mixture."""
