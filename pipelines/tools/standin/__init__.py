"""A server on 127.0.0.1 that answers the calls of Kaggle's client."""
