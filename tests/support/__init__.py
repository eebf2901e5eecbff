"""Stand-ins and builders that several rooms' tests share."""
