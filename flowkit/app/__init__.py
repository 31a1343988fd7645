"""A local web page for trained models: what a domain says about its panel, and the page that is made of it."""
