#!/bin/bash
# Tempest, the suite that judges OpenStack services, with the tests of glance-tempest-plugin. It is no server: it is run by tests/conformance.
. "$(dirname "$0")/lib.sh"
do_install() { pip_need tempest tempest==47.0.0 glance-tempest-plugin==0.17.0; }
do_start() { :; }
do_stop() { :; }
do_check() { "$VENVS/tempest/bin/tempest" list-plugins 2> /dev/null | grep -q glance_tests; }
main "$@"
