"""What a record is: contracts, frozen records, the codec between them, registry, headers and errors."""
