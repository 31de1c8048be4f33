/* SPDX-License-Identifier: Apache-2.0
 *
 * corral gpu-probe: the child that has the vendor's library in it. Not for people, but they may run it to see
 * what it says.
 */
#include "cli/cli_int.h"
#include "gpu/gpu.h"

int cmd_gpu_probe(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	(void)c;
	(void)cmd;
	return gpu_probe_main(argc, argv);
}
