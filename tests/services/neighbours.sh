#!/bin/bash
# Nova, Cinder and Horizon as packages: what they have for talking to the image service is driven by tests/conformance. None of them is run as a server.
. "$(dirname "$0")/lib.sh"
do_install() {
    pip_need nova nova==34.0.0
    pip_need cinder cinder==29.0.0
    pip_need horizon horizon==27.0.0
}
do_start() { :; }
do_stop() { :; }
do_check() {
    "$VENVS/nova/bin/python" -W ignore -c 'import nova.image.glance'
    "$VENVS/cinder/bin/python" -W ignore -c 'import cinder.image.image_utils'
    "$VENVS/horizon/bin/python" -W ignore -c 'import openstack_dashboard'
}
main "$@"
