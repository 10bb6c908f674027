"""What the tests run against: brokers and a registry of their own, set up here and taken down again."""
