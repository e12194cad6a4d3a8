/* A dynamically linked algorithm: counts the bytes of the dataset it is told. */
#include <stdio.h>

int main(int argc, char **argv)
{
	FILE *in, *out;
	long n = 0;

	if (argc != 2 || !(in = fopen(argv[1], "rb")) || !(out = fopen("results/count.txt", "w")))
		return 1;
	while (fgetc(in) != EOF)
		n++;
	fprintf(out, "%ld\n", n);
	return fclose(out) != 0;
}
