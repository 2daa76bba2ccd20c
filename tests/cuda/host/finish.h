// What the programs that check a loss tell the finishing kernel: a pixel term (1: cross entropy, 2: focal) plus `lambda` times micro Dice.
#pragma once
#include <memory>

#include "finish.cu"

struct Finish {
  std::unique_ptr<double[]> partials, sums;
  std::unique_ptr<Real[]> coefficients, loss;
  FinishArguments arguments = {};

  Finish(int pixel, double lambda, double smooth, int blocks, int64 classes)
      : partials(new double[(2 + 3 * classes + SOFT) * blocks]),
        sums(new double[3 + 3 * classes]),
        coefficients(new Real[1 + 2 * classes]),
        loss(new Real[1]) {
    arguments.partials = partials.get();
    arguments.sums = sums.get();
    arguments.loss = loss.get();
    arguments.coefficients = coefficients.get();
    arguments.pixel_factor = 1;
    arguments.region_factor = lambda;
    arguments.prediction_factor = arguments.target_factor = 1;  // Dice
    arguments.smooth = smooth;
    arguments.rows = 1;
    arguments.blocks = blocks;
    arguments.classes = (int)classes;
    arguments.pixel = pixel;
    arguments.region = arguments.mean = arguments.include_background = 1;
    arguments.soft = arguments.mean_over_pixels = SOFT;
  }
};
