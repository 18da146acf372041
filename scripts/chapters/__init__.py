"""The chapters of the journey, and what they are told with."""
