"""The data before training: a picture, a table and a record of what the images and targets of a competition are."""
