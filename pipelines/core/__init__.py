"""What the stages share: settings, tables, images, batches, models and the training engine.

Nothing in here parses arguments or prints.  A mistake that a person can mend is raised as `errors.UserError`.
"""
