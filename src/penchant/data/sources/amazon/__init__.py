"""Amazon: reviews, products, pictures."""
