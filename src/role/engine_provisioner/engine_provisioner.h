/* SPDX-License-Identifier: Apache-2.0
 *
 * The lifecycle manager of one node as a process: wiring only. One loop; it reads the same file as
 * orchestratord at home, its own on a node of a fleet, and turns it into what src/node understands.
 */
#ifndef ROLE_ENGINE_PROVISIONER_H
#define ROLE_ENGINE_PROVISIONER_H

/* engine-provisioner [--config F] [--set key=value]… [--registry ADDRESS]. Returns the exit status. */
int engine_provisioner_main(int argc, char **argv);

#endif
