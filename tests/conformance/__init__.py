"""The suites that judge OpenStack's image service, and the code of its neighbours, against a running Ikon."""
