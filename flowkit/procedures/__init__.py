"""Programs on a trained field that know no domain: making pairs, keeping them, training on them."""
